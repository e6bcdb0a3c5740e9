import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function ObjectPage() {
  return (
    <Page title="Object">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
