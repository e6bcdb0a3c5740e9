import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function SqlPage() {
  return (
    <Page title="SQL">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
