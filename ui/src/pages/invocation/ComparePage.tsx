import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function ComparePage() {
  return (
    <Page title="Compare">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
