import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function OverviewPage() {
  return (
    <Page title="Overview">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
